"""Layer-4 load balancing in the way of Minuteman: VIPs, decided per connection in user space.

Start reading at `daemon` (the controlling process) and `io_steer_server` (the one that decides).
Facts of the original are cited by file of dcos/minuteman at c5d2ee1 and of dcos/dcos-net.
"""
