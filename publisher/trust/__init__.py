"""Who may sign what, and the one history of what was signed: keys, roles, publications, pending changes."""
