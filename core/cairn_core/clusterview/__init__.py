"""The cluster view: what a network daemon knows of the cluster, whatever it learns it from.

Start reading at `io_source`, the door for daemons, and `view` (the snapshot and its changes):

    masters, io_detect, io_zookeeper    who the masters are, and which of them leads
    io_access, io_iam                   how they are talked to, and as whom
    io_follow                           which of them is asked, and when another one
    feed, io_feed                       the node feed of a master of Cairn
    operator_events, io_stream          the event stream of a master of Apache Mesos
    state_json, io_poll                 its `/state`, where there is nothing better
    lenient, sound, io_decode           JSON that is odd, or large
    journal, io_kept                    what is known, on disk
"""
