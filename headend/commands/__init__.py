"""Orders to the meters: what may switch a supply, how it is proven, and who must be switched on again."""
