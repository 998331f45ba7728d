// SMTP: the protocol of RFC 5321 as values and state machines, for smtpd (server) and remote (client).
//
// Command lines, addresses with their parameters, replies, and the two directions of DATA: `DotDecoder` takes a message
// off the wire, `DotEncoder` puts one on it. No I/O, no clock, no policy. All input is chosen by strangers, and
// everything that stores some of it has a limit.

import Bytes
