"""Graph changes, one a file: isolate (every chosen call becomes a module called once), replace, revert."""
