"""``python -m kinto_dispatch`` is ``kinto-dispatch``."""

from kinto_dispatch.cli import main


if __name__ == "__main__":
    main()
