"""What network daemons know of the cluster: a snapshot and its changes. Start reading at `view`."""
