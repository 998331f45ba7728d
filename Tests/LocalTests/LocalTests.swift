import Testing

@Suite struct LocalTests {}
