"""Every expected interval ends in one named state; a signed manifest per day says so, and lets a consumer prove its copy."""
