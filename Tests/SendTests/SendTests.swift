import Testing

@Suite struct SendTests {}
