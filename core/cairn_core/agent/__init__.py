"""The agent: runs tasks on one machine and keeps them running. Start reading at `daemon`; rules in `state`."""
