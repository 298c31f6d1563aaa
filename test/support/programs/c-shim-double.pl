#!/usr/bin/perl
# Makes the system calls of the C smtpd-starttls-proxy-io, in its order, so far as a UCSPI-TLS server can tell.
#
# Usage: c-shim-double.pl [--command=y] smtpd...
#
# It is the process that becomes smtpd; its child talks to the client. At STARTTLS the child writes Y, shuts
# the control socket down for writing, reads the answer to its end, and becomes s6-ioconnect. At HELO or MAIL
# it closes all three descriptors and becomes s6-ioconnect.
use strict;
use warnings;

# The descriptors that are made here are for programs that are started here.
$^F = 255;
$SIG{PIPE} = 'IGNORE';

my $command = 'Y';
$command = $1 if @ARGV && $ARGV[0] =~ /^--command=(.)$/ && shift @ARGV;
my ($control, $read, $write) = map { open_fd($ENV{$_}) } qw(SSLCTLFD SSLREADFD SSLWRITEFD);
pipe(my $to_smtpd_read, my $to_smtpd) && pipe(my $from_smtpd, my $from_smtpd_write) or die "pipe: $!\n";

defined(my $child = fork) or die "fork: $!\n";
if ($child) {
  close $_ for $to_smtpd, $from_smtpd, $control, $read, $write;
  open(STDIN, '<&', $to_smtpd_read) && open(STDOUT, '>&', $from_smtpd_write) or die "dup: $!\n";
  close $_ for $to_smtpd_read, $from_smtpd_write;
  exec @ARGV or die "exec: $!\n";
}
close $_ for $to_smtpd_read, $from_smtpd_write;

pass_reply(0);
while (defined(my $line = get_line(\*STDIN))) {
  if ($line =~ /^(?:helo|mail)\b/i) {
    close $_ for $control, $read, $write;
    put($to_smtpd, $line);
    connect_smtpd('-01');
  } elsif ($line =~ /^starttls\r?\n/i) {
    put($to_smtpd, "RSET\r\n");
    get_line($from_smtpd) =~ /^2/ or exit 1;
    put(\*STDOUT, "220 Ready to start TLS\r\n");
    start_tls();
  } else {
    put($to_smtpd, $line);
    pass_reply($line =~ /^ehlo\b/i);
  }
}

sub start_tls {
  put($control, $command);
  shutdown($control, 1) or die "shutdown: $!\n";
  my $octets = 0;
  while (my $count = sysread($control, my $answer, 1920)) { $octets += $count }
  exit 1 if $command eq 'Y' && $octets == 0;
  close $control;
  open(STDIN, '<&', $read) && open(STDOUT, '>&', $write) or die "dup: $!\n";
  close $_ for $read, $write;
  connect_smtpd();
}

sub connect_smtpd {
  exec('s6-ioconnect', '-r', fileno($from_smtpd), '-w', fileno($to_smtpd), @_) or die "exec: $!\n";
}

# A reply of smtpd for the client, with STARTTLS in front of the last line if that is wanted.
sub pass_reply {
  my ($adds_starttls) = @_;
  while (defined(my $line = get_line($from_smtpd))) {
    my $is_last = $line =~ /^\d{3} /;
    put(\*STDOUT, "250-STARTTLS\r\n") if $adds_starttls && $is_last;
    put(\*STDOUT, $line);
    return if $is_last;
  }
  exit 0;
}

# An octet at a time: nothing may be taken that is for s6-ioconnect.
sub get_line {
  my ($from) = @_;
  my $line = '';
  while (sysread($from, my $octet, 1)) {
    $line .= $octet;
    return $line if $octet eq "\n";
  }
  return undef;
}

sub put {
  my ($to, $text) = @_;
  syswrite($to, $text) == length $text or die "write: $!\n";
}

sub open_fd {
  my ($number) = @_;
  open(my $handle, '+<&=', $number) or die "descriptor $number: $!\n";
  return $handle;
}
