"""A client of the scheduler API, for frameworks. Start reading at `client`; rules in `session`."""
