"""The command line `headend`: thin shells that parse, call the rooms behind them, and print."""
