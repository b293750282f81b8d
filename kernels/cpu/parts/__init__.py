"""What several CPU families are composed of."""
