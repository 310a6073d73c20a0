"""The index: exact search of one shard, and the files it is built into."""
