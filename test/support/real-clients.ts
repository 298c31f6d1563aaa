import { type Outcome, run } from './real.ts';
import { BODY, type MailServer, RECIPIENT, SENDER, SERVER_NAME, SUBJECT } from './real-chain.ts';

/** A mail client of somebody else's. */
export interface MailClient {
  readonly name: string;
  /** The programs that it takes. */
  readonly programs: readonly string[];
  /** Delivers the message over STARTTLS, and checks the certificate and its name. */
  readonly secure: (server: MailServer) => Promise<Outcome>;
  /** Delivers the message in cleartext; undefined for one that cannot. */
  readonly plain?: (server: MailServer) => Promise<Outcome>;
}

const MESSAGE = `From: ${SENDER}\nTo: ${RECIPIENT}\nSubject: ${SUBJECT}\n\n${BODY}\n`;
const CRLF_MESSAGE = MESSAGE.replaceAll('\n', '\r\n');

function swaks({ port }: MailServer, ...more: string[]): Promise<Outcome> {
  const envelope = ['--from', SENDER, '--to', RECIPIENT];
  const body = ['--header', `Subject: ${SUBJECT}`, '--body', BODY];
  return run(['swaks', '--server', `127.0.0.1:${port}`, ...envelope, ...body, ...more]);
}

function curl({ port }: MailServer, ...more: string[]): Promise<Outcome> {
  const where = [`smtp://${SERVER_NAME}:${port}`, '--resolve', `${SERVER_NAME}:${port}:127.0.0.1`];
  const envelope = ['--mail-from', SENDER, '--mail-rcpt', RECIPIENT, '--upload-file', '-'];
  return run(['curl', '-sS', ...where, ...envelope, ...more], { input: CRLF_MESSAGE });
}

function msmtp({ port }: MailServer, ...more: string[]): Promise<Outcome> {
  const options = ['--host=127.0.0.1', `--port=${port}`, `--from=${SENDER}`, ...more];
  return run(['msmtp', ...options, RECIPIENT], { input: MESSAGE });
}

const SMTPLIB = `
import smtplib, ssl, sys
port, name, sender, recipient, authority = sys.argv[1:]
with smtplib.SMTP('127.0.0.1', int(port)) as client:
    # The name to look for in the certificate, which smtplib takes from nowhere else.
    client._host = name
    if authority:
        client.starttls(context=ssl.create_default_context(cafile=authority))
        if client.sock.version() not in ('TLSv1.2', 'TLSv1.3'):
            sys.exit('no TLS')
    client.sendmail(sender, [recipient], sys.stdin.read())
`;

function smtplib({ port }: MailServer, authority: string): Promise<Outcome> {
  const args = [String(port), SERVER_NAME, SENDER, RECIPIENT, authority];
  return run(['/usr/bin/python3', '-c', SMTPLIB, ...args], { input: MESSAGE });
}

/** Sends everything at once; the server processes it in order. */
function openssl({ port, pair }: MailServer): Promise<Outcome> {
  const lines = ['EHLO client.example', `MAIL FROM:<${SENDER}>`, `RCPT TO:<${RECIPIENT}>`, 'DATA'];
  const input = `${lines.join('\r\n')}\r\n${CRLF_MESSAGE.replaceAll('\r\n.', '\r\n..')}.\r\nQUIT\r\n`;
  const check = ['-CAfile', pair.certFile, '-verify_return_error', '-verify_hostname', SERVER_NAME];
  const command = ['openssl', 's_client', '-starttls', 'smtp', '-connect', `127.0.0.1:${port}`, '-quiet'];
  return run([...command, ...check], { input });
}

export const CLIENTS: readonly MailClient[] = [
  {
    name: 'swaks',
    programs: ['swaks', 'perl'],
    secure: (server) => swaks(server, '--tls', '--tls-verify', '--tls-ca-path', server.pair.certFile),
    plain: (server) => swaks(server),
  },
  {
    name: 'curl',
    programs: ['curl'],
    secure: (server) => curl(server, '--ssl-reqd', '--cacert', server.pair.certFile),
    plain: (server) => curl(server),
  },
  {
    name: 'msmtp',
    programs: ['msmtp'],
    secure: (server) => {
      const trust = [`--tls-trust-file=${server.pair.certFile}`, `--tls-host-override=${SERVER_NAME}`];
      return msmtp(server, '--tls=on', '--tls-starttls=on', ...trust);
    },
    plain: (server) => msmtp(server, '--tls=off'),
  },
  {
    name: 'smtplib',
    programs: ['/usr/bin/python3'],
    secure: (server) => smtplib(server, server.pair.certFile),
    plain: (server) => smtplib(server, ''),
  },
  { name: 'openssl', programs: ['openssl'], secure: openssl },
];
