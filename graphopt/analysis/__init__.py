"""Read-only facts about a model: shapes, coupled channels, cost, statistics, differences."""
