"""The master: who may have which resources, and who is told what. Start reading at `daemon`; rules in `state`."""
