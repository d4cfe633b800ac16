"""The DNS forwarder of every host; `daemon` is where to start reading."""
