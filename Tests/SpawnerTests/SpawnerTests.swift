import Testing

@Suite struct SpawnerTests {}
