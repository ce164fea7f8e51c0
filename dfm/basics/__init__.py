"""The ground: modules that three rooms or more need. This room imports no other room."""
