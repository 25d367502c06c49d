"""How accounts stand, as people look at them."""
