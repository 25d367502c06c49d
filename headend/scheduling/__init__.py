"""When to read what: plans (pure) and the loop that keeps them."""
