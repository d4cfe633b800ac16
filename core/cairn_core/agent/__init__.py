"""The agent: runs tasks on one machine and keeps them running, whatever happens to itself.

- `daemon`: start reading here; builds the objects, carries out what the rules decide.
- `state`: the rules, facts in and effects out (`effects`), over the tables of `records`;
  `executors` what becomes of an executor, `launching` what a container shall be.
- `io_running`: carries out what concerns containers; `io_recovery`: the start.
- `status_updates`: updates kept until acknowledged.
- `checkpoint`: the names and contents of files on disk; `recovery` reads them back into tables;
  `garbage` when sandboxes go. `io_checkpoint`, `io_garbage` do the disk's side.
- `io_master`: the link to the master; `http_executor`, `http_operator`, `http_legacy`: the fronts.
- `containerizer`, `fetcher`: namespaces, control groups, processes, files of tasks.
"""
