"""What both faces of an app are made of, without a driver."""
