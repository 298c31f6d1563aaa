import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { makeCertificates, type Pair } from './certificate.ts';
import { type TcpServer, tcpserver } from './real.ts';

/** The name that the certificate of a mail server is for. */
export const SERVER_NAME = 'mail.example.org';

/** A mail server under tcpserver and ucspi-tlsd. */
export interface MailServer extends TcpServer {
  /** The certificate that it shows, and its key. */
  readonly pair: Pair;
  /** A folder of its own, for all to read and write. */
  readonly folder: string;
}

/** A folder for what a test makes, which goes with it. */
export function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'mail-'));
  chmodSync(folder, 0o777);
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * Starts a mail server until the end of the test.
 *
 * @param chain what tcpserver is to start, with a certificate in its environment and, for mailfront's
 * queuedir, a queue.
 */
export async function startMailServer(
  t: TestContext,
  chain: (folder: string) => readonly string[],
): Promise<MailServer> {
  const folder = makeFolder(t);
  for (const name of ['queue', 'queue/tmp', 'queue/new']) {
    mkdirSync(join(folder, name));
    chmodSync(join(folder, name), 0o777);
  }
  const certificates = makeCertificates();
  t.after(certificates.remove);
  const pair = certificates.selfSigned(SERVER_NAME);
  const server = await tcpserver(t, chain(folder), {
    CERTFILE: pair.certFile,
    KEYFILE: pair.keyFile,
    QUEUEDIR: join(folder, 'queue'),
  });
  return { ...server, pair, folder };
}

/** The queue of mailfront's queuedir. */
export function queueOf({ folder }: MailServer): string {
  return join(folder, 'queue/new');
}

/**
 * Looks whether the message, and no other, is in the queue of mailfront's queuedir: `SUBJECT` and `BODY`
 * from `SENDER` to `RECIPIENT`.
 */
export function assertDelivered(server: MailServer): void {
  const queue = queueOf(server);
  const files = readdirSync(queue);
  assert.equal(files.length, 1, `messages in the queue, where there should be 1. ${server.stderr()}`);
  // The envelope is in front: strings that NUL ends, and one more NUL.
  const message = readFileSync(join(queue, files[0] ?? ''), 'latin1').replaceAll('\r\n', '\n');
  const envelope = `${SENDER}\0${RECIPIENT}\0\0`;
  assert.equal(message.slice(0, envelope.length), envelope);
  assertContent(message.slice(envelope.length));
}

/** Looks whether a message has the subject and the body that all clients send. */
export function assertContent(message: string): void {
  const [header = '', ...paragraphs] = message.split('\n\n');
  assert.match(header, new RegExp(`^Subject: ${SUBJECT}$`, 'm'));
  assert.equal(paragraphs.join('\n\n').trimEnd(), BODY);
}

/** Asserts how many times TLS was started, by what ucspi-tlsd logs at level 2. */
export function assertTls(server: MailServer, times: number): void {
  const lines = server.stderr().match(/^ucspi-tlsd: info: TLS with 127\.0\.0\.1: TLSv1\.[23], /gm) ?? [];
  assert.equal(lines.length, times, server.stderr());
}

export const SENDER = 'alice@example.org';
export const RECIPIENT = 'bob@example.net';
export const SUBJECT = 'a letter';
/** With a line that begins with a dot, which SMTP has to double on its way. */
export const BODY = 'Dear Bob,\n.is this a dot?\n..\nYours, Alice';
