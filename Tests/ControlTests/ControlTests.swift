import Testing

@Suite struct ControlTests {}
