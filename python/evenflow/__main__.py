"""Runs the command line: python -m evenflow."""

import sys

from evenflow.cli import main

sys.exit(main())
