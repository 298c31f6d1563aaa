/** Unit tests of lib/maildir: message text, file names, trace header fields. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createDataReader } from '../../lib/maildir/protocol/data.ts';
import { formatTrace } from '../../lib/maildir/protocol/trace.ts';
import { uniqueName } from '../../lib/maildir/store/maildir.ts';

const ENVELOPE = { helloName: 'me', extended: true, sender: 'a@b', recipients: ['c@d'] };
const CONTEXT = { host: 'mx.example', id: '1.M2P3Q4.mx', date: new Date(0), environment: {} };

/** A reference implementation of RFC 5321 section 4.5.2. */
function decode(octets: string): { text: string; size: number; rest: string; invalid: boolean } | undefined {
  const end = `\r\n${octets}`.indexOf('\r\n.\r\n');
  if (end < 0) return undefined;
  const plain = `\r\n${octets}`
    .slice(0, end + 2)
    .replaceAll('\r\n.', '\r\n')
    .slice(2);
  const invalid = /\0|\r(?!\n)/.test(plain);
  return { text: plain.replaceAll('\r\n', '\n'), size: plain.length, rest: octets.slice(end + 3), invalid };
}

/** All texts of a length over an alphabet. */
function* texts(alphabet: string, length: number): Generator<string> {
  if (length === 0) yield '';
  else for (const start of texts(alphabet, length - 1)) for (const one of alphabet) yield start + one;
}

describe('createDataReader', () => {
  it('decodes every text of eight characters like the reference, whole and in pieces', () => {
    let ends = 0;
    for (const octets of texts('\r\n.x', 8)) {
      const wanted = decode(octets);
      for (const pieces of [[octets], [...octets]]) {
        const reader = createDataReader();
        let text = '';
        let rest: string | undefined;
        for (const piece of pieces) {
          const read = reader.read(Buffer.from(piece, 'latin1'));
          text += read.text.toString('latin1');
          if (!read.ended) continue;
          rest = piece.slice(read.consumed);
          break;
        }
        assert.equal(rest !== undefined, wanted !== undefined, JSON.stringify(octets));
        if (wanted === undefined) continue;
        ends += 1;
        assert.equal(reader.isInvalid(), wanted.invalid, JSON.stringify(octets));
        if (!wanted.invalid) assert.deepEqual([text, reader.size()], [wanted.text, wanted.size]);
        if (pieces.length === 1) assert.equal(rest, wanted.rest);
      }
    }
    assert.ok(ends > 1000);
  });
});

describe('uniqueName', () => {
  it('generates each name once, without slash and colon', () => {
    const names = new Set(Array.from({ length: 1000 }, () => uniqueName('a/b:c')));
    assert.equal(names.size, 1000);
    for (const name of names) assert.match(name, /^\d+\.M\d{1,6}P\d+Q\d+\.a\\057b\\072c$/);
  });
});

describe('formatTrace', () => {
  it('contains sender, recipient, hosts, protocol, id and date', () => {
    assert.equal(
      formatTrace(ENVELOPE, CONTEXT).toString(),
      [
        'Return-Path: <a@b>',
        'Delivered-To: c@d',
        'Received: from me',
        '  by mx.example',
        '  with ESMTP',
        '  id 1.M2P3Q4.mx',
        '  for <c@d>;',
        '  Thu, 01 Jan 1970 00:00:00 +0000',
        '',
      ].join('\n'),
    );
  });

  it('has no for clause with several recipients', () => {
    const envelope = { ...ENVELOPE, sender: '', recipients: ['c@d', 'e@f'] };
    const trace = formatTrace(envelope, CONTEXT).toString();
    assert.match(trace, /^Return-Path: <>\nDelivered-To: c@d\nDelivered-To: e@f\nReceived: /);
    assert.doesNotMatch(trace, /\bfor\b/);
    assert.match(trace, / id 1\.M2P3Q4\.mx;\n/);
  });

  it('uses the protocol names of RFC 3848', () => {
    const tls = { SSL_PROTOCOL: 'TLSv1.3', SSL_CIPHER: 'X' };
    const withLine = (extended: boolean, environment: NodeJS.ProcessEnv): string | undefined =>
      /^ {2}with (.*)$/m.exec(
        formatTrace({ ...ENVELOPE, extended }, { ...CONTEXT, environment }).toString(),
      )?.[1];
    assert.equal(withLine(false, {}), 'SMTP');
    assert.equal(withLine(true, {}), 'ESMTP');
    assert.equal(withLine(true, tls), 'ESMTPS (TLSv1.3 X)');
    assert.equal(withLine(true, { SSL_PROTOCOL: 'TLSv1.3' }), 'ESMTPS (TLSv1.3)');
    assert.equal(withLine(false, tls), 'SMTP (TLSv1.3 X)');
  });

  it('contains "unknown" for an empty variable', () => {
    const environment = { TCPREMOTEIP: '', TCPREMOTEHOST: '' };
    const trace = formatTrace(ENVELOPE, { ...CONTEXT, environment }).toString();
    assert.match(trace, /^ {2}\(unknown \[unknown\]\)$/m);
  });

  it('replaces characters with which the client or the environment could add lines', () => {
    const evil = 'x)\r\nBcc: everybody@b\n\n(\u2028;';
    const environment = { TCPREMOTEIP: evil, TCPREMOTEHOST: evil, SSL_PROTOCOL: evil, SSL_CIPHER: evil };
    const envelope = { ...ENVELOPE, helloName: evil + 'x'.repeat(5000) };
    const trace = formatTrace(envelope, { ...CONTEXT, environment }).toString('latin1');
    const plain = 'x???Bcc:?everybody?b?????';
    assert.match(trace, /^[ -~\n]*$/);
    assert.equal(trace.split('\n').length, 10);
    assert.ok(trace.includes(`(${plain} [IPv6:${plain}])\n`));
    assert.ok(trace.includes(`with ESMTPS (${plain} ${plain})\n`));
    for (const line of trace.split('\n')) assert.ok(line.length < 998);
  });
});
