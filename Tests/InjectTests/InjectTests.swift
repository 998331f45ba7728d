import Testing

@Suite struct InjectTests {}
