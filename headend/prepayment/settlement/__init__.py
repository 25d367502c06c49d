"""Daily settlement: what each account's days cost, and what that says of the days to come."""
