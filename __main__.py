"""The console command: ``provenn`` and ``python -m provenn``. Imports nothing before an interrupt is one exit code."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded ends it with 130 and without a traceback."""
    try:
        from provenn import cli

        cli.main()
    except KeyboardInterrupt:
        os.write(2, b"provenn: interrupted\n")
        os._exit(130)


if __name__ == "__main__":
    main()
