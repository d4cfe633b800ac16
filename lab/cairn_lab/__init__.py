"""A virtual data centre of network namespaces on one machine. Start reading at `cli`."""
