"""What prepaid supply reaches outside of itself: feed, switch, bank and messengers."""
