"""Hierarchical DRF: which framework is offered what. Start reading at `drf`."""
