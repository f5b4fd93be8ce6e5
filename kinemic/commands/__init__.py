"""The command groups of ``kinemic/``, one module a group, loaded on use through entry points."""
