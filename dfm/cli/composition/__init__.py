"""The command line as Hydra composes it: overrides, directories of YAML files, help, and errors in plain words."""
