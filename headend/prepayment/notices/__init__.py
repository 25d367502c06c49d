"""What customers are told: when, in which words, how it is sent and proven."""
