import Testing

@Suite struct InjectionTests {}
