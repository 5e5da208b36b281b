"""`python -m actswap.cli`: the command line without the installed script."""

from actswap.cli.main import main

main()
