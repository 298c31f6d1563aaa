#!/usr/bin/perl
# Stands in for qmail-smtpd with the AUTH patch: qmail-smtpd [host checkpassword prog...]
#
# Like the original, it relays for anyone if RELAYCLIENT is set or the client has logged in, and otherwise accepts
# recipients in rcpthosts only, here example.org. checkpassword gets user and password on descriptor 3. A message is not
# queued: the reply to its end shows what qmail-smtpd would have put into the queue, and as which user.
use strict;
use warnings;
use MIME::Base64 qw(decode_base64);
use POSIX qw(dup2);

$| = 1;
# Descriptors above this one are closed at exec.
$^F = 3;
my ($host, @checkpassword) = @ARGV;
my $relay = exists $ENV{RELAYCLIENT} ? 'yes' : 'no';

sub reply { print map { "$_\r\n" } @_ }

sub logged_in {
  my ($credentials) = @_;
  my (undef, $user, $password) = split /\0/, decode_base64($credentials);
  pipe(my $reader, my $writer) or die "pipe: $!\n";
  my $child = fork // die "fork: $!\n";
  if ($child == 0) {
    close $writer;
    dup2(fileno $reader, 3) unless fileno $reader == 3;
    exec @checkpassword or exit 111;
  }
  close $reader;
  syswrite $writer, "$user\0$password\0time\0";
  close $writer;
  waitpid $child, 0;
  return $? == 0;
}

reply '220 ' . ($host // 'mx.example.org') . ' ESMTP';
while (defined(my $line = <STDIN>)) {
  $line =~ s/\r?\n$//;
  if ($line =~ /^EHLO/i) {
    reply '250-mx.example.org', (@checkpassword ? '250-AUTH LOGIN PLAIN' : ()), '250-PIPELINING', '250 8BITMIME';
  } elsif ($line =~ /^AUTH PLAIN (\S+)$/i && @checkpassword) {
    if (logged_in($1)) {
      $relay = 'yes';
      reply '235 ok, go ahead (#2.0.0)';
    } else {
      reply '535 authentication failed (#5.7.1)';
    }
  } elsif ($line =~ /^(?:MAIL|RSET|NOOP)/i) {
    reply '250 ok';
  } elsif ($line =~ /^RCPT TO:<.*?@(.*)>/i) {
    reply $relay eq 'yes' || $1 eq 'example.org'
      ? '250 ok'
      : "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)";
  } elsif ($line =~ /^DATA$/i) {
    reply '354 go ahead';
    while (defined($line = <STDIN>)) { last if $line eq ".\r\n" }
    my $tls = $ENV{SSL_PROTOCOL} // 'none';
    reply "250 ok from $ENV{TCPREMOTEIP} by $ENV{TCPLOCALHOST} TLS $tls relay $relay uid $>";
  } elsif ($line =~ /^QUIT$/i) {
    reply '221 mx.example.org';
    exit 0;
  } else {
    reply '502 unimplemented (#5.5.1)';
  }
}
