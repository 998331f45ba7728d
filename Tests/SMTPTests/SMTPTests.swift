import Testing

@Suite struct SMTPTests {}
