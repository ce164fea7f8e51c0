"""``python -m dfm`` does the same as the command ``dfm``."""

from dfm.cli.main import main

if __name__ == "__main__":
    main()
