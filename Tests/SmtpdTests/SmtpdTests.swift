import Testing

@Suite struct SmtpdTests {}
