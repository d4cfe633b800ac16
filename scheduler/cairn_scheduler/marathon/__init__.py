"""Marathon: keeps long-running services alive. Start reading at `daemon`; rules in `core`."""
