"""What takes several transactions: generators that yield operations and are sent their results."""
