import Testing

@Suite struct SystemTests {}
