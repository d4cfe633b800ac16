"""Names for everything that runs: Mesos-DNS. Start reading at `daemon`, rules in `records`."""
