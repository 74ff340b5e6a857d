"""The asyncio side of the same core."""
