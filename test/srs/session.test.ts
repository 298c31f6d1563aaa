/** A session of smtpd-srs-io: what smtpd receives, what the client is answered, and how it ends. */

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { createSrs } from '../../lib/srs/srs.ts';
import { startFarServer } from '../support/far-server.ts';
import { until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { startSrs } from '../support/srs.ts';

const DAY = 86_400_000;
const BAD_SENDER = '501 5.1.7 Invalid sender address, send MAIL FROM:<user@host>';
const BAD_RECIPIENT = '501 5.1.3 Invalid recipient address, send RCPT TO:<user@host>';
const NO_SRS = '550 5.1.1 Invalid or expired SRS address';

/** The addresses of a first forwarder with our key. */
function srsWith(key: string): ReturnType<typeof createSrs> {
  return createSrs({ keys: [Buffer.from(key)], hashLength: 4, hashMin: 4, maxAge: 21, separator: '=' });
}

const SRS = srsWith('tops3cr3t');

function srs0(days = 0): string {
  return `${SRS.forward({ local: 'bob', domain: 'other.example' }, Date.now() + days * DAY)}@ours.example`;
}

/** Sends commands in one piece and returns the replies to them, one line each, and what smtpd received. */
async function exchange(
  t: Parameters<typeof startSrs>[0],
  commands: readonly string[],
  options: Parameters<typeof startSrs>[1] = {},
): Promise<{ readonly replies: readonly string[]; readonly received: readonly string[] }> {
  const session = startSrs(t, options);
  await session.reply();
  session.send(...commands, 'QUIT');
  session.end();
  const lines = (await session.rest()).trimEnd().split('\r\n');
  assert.equal(await session.status, 0);
  assert.equal(lines.pop(), '221 2.0.0 Bye');
  const received = session.received().trimEnd().split('\r\n');
  assert.equal(received.pop(), 'QUIT');
  return { replies: lines, received };
}

describe('MAIL', () => {
  it('with a sender of another domain gets an SRS address of the first domain, and keeps its parameters', async (t) => {
    const { received } = await exchange(t, [
      'MAIL FROM:<bob@other.example> SIZE=1000 BODY=8BITMIME',
      'mail from: <Bob@sub.ours.example>',
      'MAIL FROM:<bob@[192.0.2.1]>',
      'MAIL FROM:<"bob smith"@other.example> RET=HDRS',
      'MAIL FROM:<"a\\"b"@other.example>',
      'MAIL FROM:<"bob"@other.example>',
      'MAIL FROM:<@relay.example,@relay2.example:bob@other.example>',
      'MAIL FROM:<b\xc3\xb6b@\xc3\xb6ther.example> SMTPUTF8',
    ]);
    const hash = '[A-Za-z0-9+/]{4}=[A-Z2-7]{2}';
    const expected = [
      `MAIL FROM:<SRS0=${hash}=other.example=bob@ours.example> SIZE=1000 BODY=8BITMIME`,
      `MAIL FROM:<SRS0=${hash}=sub.ours.example=Bob@ours.example>`,
      `MAIL FROM:<"SRS0=${hash}=\\[192.0.2.1\\]=bob"@ours.example>`,
      `MAIL FROM:<"SRS0=${hash}=other.example=bob smith"@ours.example> RET=HDRS`,
      `MAIL FROM:<"SRS0=${hash}=other.example=a\\\\"b"@ours.example>`,
      `MAIL FROM:<SRS0=${hash}=other.example=bob@ours.example>`,
      `MAIL FROM:<SRS0=${hash}=other.example=bob@ours.example>`,
      `MAIL FROM:<SRS0=${hash}=\xc3\xb6ther.example=b\xc3\xb6b@ours.example> SMTPUTF8`,
    ];
    assert.equal(received.length, expected.length);
    for (const [index, line] of expected.entries()) {
      assert.match(received[index] ?? '', new RegExp(`^${line.replaceAll('.', '\\.')}$`));
    }
  });

  it('with an SRS address of another becomes SRS1, and stays SRS1', async (t) => {
    const { received } = await exchange(t, [
      'MAIL FROM:<SRS0=xxxx=yy=other.example=bob@first.example>',
      'MAIL FROM:<srs0+xxxx=yy=other.example=bob@first.example>',
      'MAIL FROM:<SRS1=zzzz=first.example==xxxx=yy=other.example=bob@second-forwarder.example>',
    ]);
    const [one, plus, again] = received;
    assert.match(
      one ?? '',
      /^MAIL FROM:<SRS1=.{4}=first\.example==xxxx=yy=other\.example=bob@ours\.example>$/,
    );
    assert.match(
      plus ?? '',
      /^MAIL FROM:<SRS1=.{4}=first\.example=\+xxxx=yy=other\.example=bob@ours\.example>$/,
    );
    assert.equal(again, one);
  });

  it('with a sender of ours, none, or one without a domain passes unchanged', async (t) => {
    const commands = [
      'MAIL FROM:<>',
      'MAIL FROM: <> BODY=8BITMIME',
      'mail  FROM:<bob@OURS.example>',
      'MAIL FROM:<bob@second.example.>',
      'MAIL FROM:<SRS0=xxxx=yy=other.example=bob@ours.example>',
      'MAIL FROM:<bob>',
    ];
    const { received } = await exchange(t, commands);
    assert.deepEqual(received, commands);
  });

  it('with what is not an address in brackets is refused', async (t) => {
    const commands = ['MAIL', 'MAIL FROM:bob@other.example', 'MAIL FROM:<bob@>', 'MAIL FROM:<a b@c.example>'];
    const more = [
      'MAIL FROM:<a@b.example>x',
      'MAIL TO:<a@b.example>',
      'MAIL FROM:<a@[x=y]>',
      'MAIL FROM:<@b.example>',
    ];
    const { replies, received } = await exchange(t, [...commands, ...more]);
    assert.deepEqual(replies, Array(8).fill(BAD_SENDER));
    assert.deepEqual(received, []);
  });

  it('with a long sender passes with a warning, or is refused', async (t) => {
    const long = `MAIL FROM:<${'a'.repeat(40)}@a-domain.example>`;
    const passing = startSrs(t);
    await passing.reply();
    assert.match(await passing.ask(long), /^250 /);
    passing.end();
    await passing.status;
    assert.match(
      passing.stderr(),
      /^smtpd-srs-io: warning: sender may be refused elsewhere: a{40}@a-domain\.example: the local part of its SRS address has 70 octets, more than 64\n$/,
    );
    const { replies, received } = await exchange(t, [long], { options: ['--long', 'refuse'] });
    assert.deepEqual(replies, ['553 5.1.7 Sender address too long to be rewritten by SRS']);
    assert.deepEqual(received, []);
  });
});

describe('RCPT', () => {
  it('with an SRS address of ours becomes what it stands for, and keeps its parameters', async (t) => {
    const [first] = srs0().split('@');
    const { received } = await exchange(t, [
      `RCPT TO:<${srs0()}> NOTIFY=NEVER`,
      `rcpt to: <${srs0().toLowerCase()}>`,
      `RCPT TO:<${first}@Second.Example.>`,
      `RCPT TO:<@relay.example:${srs0()}>`,
      `RCPT TO:<"${first}"@ours.example>`,
      `RCPT TO:<${first}>`,
      `RCPT TO:<${srs0(-20)}>`,
    ]);
    assert.deepEqual(received, [
      'RCPT TO:<bob@other.example> NOTIFY=NEVER',
      ...Array(6).fill('RCPT TO:<bob@other.example>'),
    ]);
  });

  it('gets back what was packed, quoted where it was', async (t) => {
    const senders = [
      'a=b+c@x.example',
      '"bob smith"@x.example',
      '"a\\"\\\\b"@[IPv6:::1]',
      '"x@y"@z.example',
      '".a"@b.example',
    ];
    const packed = await exchange(
      t,
      senders.map((sender) => `MAIL FROM:<${sender}>`),
    );
    const bounces = packed.received.map((line) => line.replace('MAIL FROM', 'RCPT TO'));
    const { received } = await exchange(t, bounces);
    assert.deepEqual(
      received,
      senders.map((sender) => `RCPT TO:<${sender}>`),
    );
  });

  it('with SRS1 becomes the SRS0 address of the first forwarder', async (t) => {
    const inner = 'SRS0=xxxx=yy=other.example=bob@first.example';
    const packed = await exchange(t, [`MAIL FROM:<${inner}>`]);
    const { received } = await exchange(t, [(packed.received[0] ?? '').replace('MAIL FROM', 'RCPT TO')]);
    assert.deepEqual(received, [`RCPT TO:<${inner}>`]);
  });

  it('with SRS1 of an SRS0 address of ours is unpacked twice', async (t) => {
    const [local = ''] = srs0().split('@');
    const ours = SRS.forward({ local, domain: 'ours.example' }, Date.now());
    const forged = SRS.forward({ local: 'SRS0=nonsense', domain: 'ours.example' }, Date.now());
    const commands = [`RCPT TO:<${ours}@ours.example>`, `RCPT TO:<${forged}@ours.example>`];
    const { replies, received } = await exchange(t, commands);
    assert.deepEqual(received, ['RCPT TO:<bob@other.example>']);
    assert.equal(replies[1], NO_SRS);
  });

  it('with an SRS address that is forged, expired or malformed is refused', async (t) => {
    const { replies, received } = await exchange(t, [
      `RCPT TO:<${srs0().replace('bob', 'eve')}>`,
      `RCPT TO:<${srs0(-23)}>`,
      'RCPT TO:<SRS0=@ours.example>',
      'RCPT TO:<SRS0=nonsense>',
      'RCPT TO:<srs1-nonsense@second.example>',
      `RCPT TO:<${srsWith('another').forward({ local: 'bob', domain: 'other.example' }, Date.now())}@ours.example>`,
    ]);
    assert.deepEqual(replies, Array(6).fill(NO_SRS));
    assert.deepEqual(received, []);
  });

  it('with an SRS address whose domain could not be in a path is refused, though it is signed', async (t) => {
    const packed = SRS.forward({ local: 'bob', domain: 'x.example> y' }, Date.now());
    const { replies } = await exchange(t, [`RCPT TO:<"${packed}"@ours.example>`]);
    assert.deepEqual(replies, [NO_SRS]);
  });

  it('with any other recipient passes unchanged', async (t) => {
    const commands = [
      'RCPT TO:<bob@other.example> NOTIFY=NEVER',
      'rcpt  to: <bob@ours.example>',
      'RCPT TO:<SRS0=xxxx=yy=other.example=bob@first.example>',
      'RCPT TO:<Postmaster>',
      'RCPT TO:<SRS0@ours.example>',
    ];
    const { received } = await exchange(t, commands);
    assert.deepEqual(received, commands);
  });

  it('with what is not an address in brackets is refused', async (t) => {
    const { replies, received } = await exchange(t, [
      'RCPT TO:bob@a.example',
      'RCPT TO:<>',
      'RCPT TO:<a@b>c',
    ]);
    assert.deepEqual(replies, Array(3).fill(BAD_RECIPIENT));
    assert.deepEqual(received, []);
  });
});

describe('the options', () => {
  it('--pack and --unpack leave the others as they are', async (t) => {
    const commands = [
      'MAIL FROM:bob@a.example',
      'MAIL FROM:<bob@a.example>',
      `RCPT TO:<${srs0()}>`,
      'RCPT TO:<SRS0=x@ours.example>',
    ];
    const packing = await exchange(t, commands.slice(1), { options: ['--pack'] });
    assert.match(packing.received[0] ?? '', /^MAIL FROM:<SRS0=/);
    assert.deepEqual(packing.received.slice(1), commands.slice(2));
    const unpacking = await exchange(t, commands, { options: ['--unpack'] });
    assert.deepEqual(unpacking.received, [...commands.slice(0, 2), 'RCPT TO:<bob@other.example>']);
  });

  it('--hash-length, --hash-min, --separator and --max-age count', async (t) => {
    const { received, replies } = await exchange(
      t,
      ['MAIL FROM:<a@b.example>', `RCPT TO:<${srs0()}>`, `RCPT TO:<${srs0(-3)}>`],
      {
        options: ['--hash-length', '8', '--hash-min=4', '--separator=+', '--max-age', '1'],
      },
    );
    assert.match(received[0] ?? '', /^MAIL FROM:<SRS0\+.{8}=..=b\.example=a@ours\.example>$/);
    assert.equal(received[1], 'RCPT TO:<bob@other.example>');
    assert.equal(replies[2], NO_SRS);
    const strict = await exchange(t, [`RCPT TO:<${srs0()}>`], { options: ['--hash-length', '8'] });
    assert.deepEqual(strict.replies, [NO_SRS]);
  });

  it('the first key writes, and all read', async (t) => {
    const keys = '# of this year\nnew\n\ntops3cr3t\n';
    const { received } = await exchange(t, [`RCPT TO:<${srs0()}>`, 'MAIL FROM:<bob@other.example>'], {
      keys,
    });
    assert.equal(received[0], 'RCPT TO:<bob@other.example>');
    const [, written = ''] = /^MAIL FROM:<(.*)@ours\.example>$/.exec(received[1] ?? '') ?? [];
    assert.deepEqual(srsWith('new').reverse(written, Date.now()), { local: 'bob', domain: 'other.example' });
  });
});

describe('the domain form', () => {
  const options = ['-d', '*.SRS.ours.example,ours.example'];

  it('keeps the local part, and gives it back', async (t) => {
    const senders = [
      'bob@other.example',
      '"bob smith"@other.example',
      'SRS0=x=y=z=u@other.example',
      'x@b.example.',
    ];
    const packed = await exchange(
      t,
      senders.map((sender) => `MAIL FROM:<${sender}> SIZE=1`),
      { options },
    );
    for (const [index, sender] of senders.entries()) {
      const [local = '', domain = ''] = sender.split('@');
      const name = domain.replace(/\.$/, '').replaceAll('.', '\\.');
      const line = new RegExp(`^MAIL FROM:<${local}@[A-Z2-7]{16}\\.${name}\\.srs\\.ours\\.example> SIZE=1$`);
      assert.match(packed.received[index] ?? '', line);
    }
    const bounces = packed.received.map((line) => line.replace('MAIL FROM', 'RCPT TO'));
    const { received } = await exchange(t, bounces, { options });
    assert.deepEqual(
      received,
      senders.map((sender) => `RCPT TO:<${sender.replace(/\.$/, '')}> SIZE=1`),
    );
  });

  it('is refused if it is forged, or malformed', async (t) => {
    const { replies, received } = await exchange(
      t,
      ['RCPT TO:<a@AAAAAAAAAAAAAAAA.b.example.srs.ours.example>', 'RCPT TO:<a@b.Srs.Ours.example.>'],
      { options },
    );
    assert.deepEqual(replies, [NO_SRS, NO_SRS]);
    assert.deepEqual(received, []);
  });

  it('leaves what is ours, and unpacks SRS addresses of the other domains', async (t) => {
    const { received } = await exchange(
      t,
      [
        'MAIL FROM:<a@ours.example>',
        'MAIL FROM:<a@b.srs.ours.example>',
        'RCPT TO:<a@srs.ours.example>',
        `RCPT TO:<${srs0()}>`,
      ],
      { options },
    );
    assert.deepEqual(received, [
      ...['MAIL FROM:<a@ours.example>', 'MAIL FROM:<a@b.srs.ours.example>', 'RCPT TO:<a@srs.ours.example>'],
      'RCPT TO:<bob@other.example>',
    ]);
  });

  it('is refused for an address literal, and a domain that would be too long', async (t) => {
    const long = `${'a'.repeat(62)}.`.repeat(3);
    const { replies, received } = await exchange(
      t,
      [
        'MAIL FROM:<a@[192.0.2.1]>',
        `MAIL FROM:<a@${long}${'b'.repeat(33)}>`,
        `MAIL FROM:<a@${long}${'b'.repeat(32)}>`,
      ],
      { options },
    );
    assert.deepEqual(replies, [
      BAD_SENDER,
      '553 5.1.7 Sender address too long to be rewritten by SRS',
      '250 2.1.0 Sender ok',
    ]);
    assert.equal(received.length, 1);
  });
});

describe('a session', () => {
  it('answers a client that pipelines everything, greeting not awaited, in order', async (t) => {
    const session = startSrs(t, { smtpd: ['--start=line 220-two;line 220 lines'] });
    const message = ['MAIL FROM:<a@b.example>', '..', `RCPT TO:<${srs0()}>`, 'QUIT', '.'];
    session.send(
      ...['EHLO client.example', 'MAIL FROM:<bob@other.example>', 'RCPT TO:<SRS0=x@ours.example>'],
      ...[`RCPT TO:<${srs0()}>`, 'RCPT TO:bad', 'DATA', ...message],
      ...['STARTTLS', 'MAIL FROM:<>', 'QUIT'],
    );
    session.end();
    const codes = (await session.rest()).match(/^\d{3}(?= )/gm);
    assert.deepEqual(codes, ['220', '250', '250', '550', '250', '501', '354', '250', '503', '250', '221']);
    assert.equal(await session.status, 0);
    const [hello, mail, ...others] = session.received().trimEnd().split('\r\n');
    assert.equal(hello, 'EHLO client.example');
    assert.match(mail ?? '', /^MAIL FROM:<SRS0=.*=bob@ours\.example>$/);
    assert.deepEqual(others, ['RCPT TO:<bob@other.example>', 'DATA', ...message, 'MAIL FROM:<>', 'QUIT']);
  });

  it('passes a large message unchanged', async (t) => {
    const lines = randomBytes(20_000_000).toString('base64').replace(/.{70}/g, '$&\r\n');
    const message = `MAIL FROM:<a@b.example>\r\n..\r\n${lines}\r\n.\r\n`;
    const session = startSrs(t, { smtpd: [`--on=DATA:line 354 go;digest ${message.length}`] });
    await session.reply();
    assert.match(await session.ask('MAIL FROM:<bob@other.example>'), /^250 /);
    assert.equal(await session.ask('DATA'), '354 go');
    session.child.stdin?.write(message);
    assert.equal(await session.reply(), `250 ${createHash('sha256').update(message).digest('hex')}`);
    assert.equal(await session.ask('QUIT'), '221 2.0.0 Bye');
  });

  it('passes BDAT by its count, with CRLF.CRLF and commands in it', async (t) => {
    const chunk = '\r\n.\r\nMAIL FROM:<a@b.example>\r\n';
    const session = startSrs(t, {
      smtpd: [`--on=BDAT:digest ${chunk.length}`, '--on=EHLO:line 250-host; line 250 CHUNKING'],
    });
    await session.reply();
    assert.match(await session.ask('EHLO client.example'), /CHUNKING/);
    session.child.stdin?.write(`BDAT ${chunk.length} LAST\r\n${chunk}MAIL FROM:<a@b.example>\r\n`);
    assert.equal(await session.reply(), `250 ${createHash('sha256').update(chunk).digest('hex')}`);
    assert.match(await session.reply(), /^250 2\.1\.0/);
    assert.match(session.received(), /\r\nMAIL FROM:<SRS0=[^\n]*\r\n$/);
  });

  it('reports ten long senders of a session, and the start of one that is very long', async (t) => {
    const session = startSrs(t);
    await session.reply();
    const senders = Array.from({ length: 50 }, () => `MAIL FROM:<${'a'.repeat(5000)}@other.example>`);
    session.send(...senders, 'QUIT');
    for (const _ of senders) assert.match(await session.reply(), /^250 /);
    assert.match(await session.reply(), /^221 /);
    await session.status;
    const lines = session.stderr().trimEnd().split('\n');
    assert.equal(lines.length, 11);
    assert.equal(lines.pop(), 'smtpd-srs-io: warning: more addresses of this session are not reported');
    for (const line of lines)
      assert.match(line, /: a{320}\.\.\.: the local part of its SRS address has 5027 octets,/);
  });

  it('answers BDAT itself if smtpd has not offered CHUNKING, and discards its octets', async (t) => {
    const session = startSrs(t);
    await session.reply();
    await session.ask('EHLO client.example');
    session.child.stdin?.write('BDAT 25 LAST\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n');
    assert.equal(await session.reply(), '502 5.5.1 Command not available here');
    assert.equal(await session.reply(), '221 2.0.0 Bye');
    assert.equal(session.received(), 'EHLO client.example\r\nQUIT\r\n');
  });

  it('delivers large output to a client that sends at the same time', async (t) => {
    const session = startSrs(t, { smtpd: ['--on=HELP:flood 3000000;line 250 done'] });
    await session.reply();
    session.send('HELP', ...Array(50).fill('NOOP'));
    assert.match(await session.reply(), /250 done$/);
    for (let count = 0; count < 50; count += 1) assert.equal(await session.reply(), '250 2.0.0 Ok');
  });

  it('does not read the client while smtpd reads nothing', async (t) => {
    const smtpd = ['--on=DATA:line 354 go;await-nothing'];
    const session = startSrs(t, { smtpd, options: ['-T', '3'] });
    await session.reply();
    assert.equal(await session.ask('DATA'), '354 go');
    session.child.stdin?.write('x'.repeat(50_000_000));
    assert.match(await session.reply(), /^421 4\.4\.2 /);
    assert.ok((session.child.stdin?.writableLength ?? 0) > 40_000_000);
    session.child.stdin?.destroy();
    assert.equal(await session.status, 143);
  });

  it('does not read smtpd while the client reads nothing, and ends it in the end', async (t) => {
    const session = startSrs(t, { smtpd: ['--on=HELP:flood 50000000'], options: ['-t', '3'] });
    await session.reply();
    session.child.stdout?.pause();
    session.send('HELP', ...Array(50).fill('RCPT TO:<SRS0=x@ours.example>'));
    await until('smtpd-srs-io has given up', () => session.stderr() !== '');
    assert.equal(session.stderr(), 'smtpd-srs-io: warning: the client does not read its replies, closing\n');
    session.child.stdout?.resume();
    session.end();
    await session.status;
  });

  it('has a reply for each recipient in LMTP', async (t) => {
    const on = ['--on=LHLO:line 250 lmtp', '--on=DATA:line 354 go;data;line 250 second'];
    const session = startSrs(t, { smtpd: on });
    await session.reply();
    const recipients = [`RCPT TO:<${srs0()}>`, 'RCPT TO:<SRS0=x@ours.example>', 'RCPT TO:<a@b.example>'];
    session.send(
      'LHLO x',
      'MAIL FROM:<bob@other.example>',
      ...recipients,
      'DATA',
      'Hi.',
      '.',
      'MAIL FROM:x',
      'QUIT',
    );
    const codes = (await session.rest()).match(/^\d{3} \S*/gm);
    assert.deepEqual(codes, [
      ...['250 lmtp', '250 2.1.0', '250 2.1.5', '550 5.1.1', '250 2.1.5', '354 go', '250 2.0.0'],
      ...['250 second', '501 5.1.7', '221 2.0.0'],
    ]);
  });

  it('ends after a hundred refused commands: they could be guesses', async (t) => {
    const session = startSrs(t);
    await session.reply();
    session.send(...Array(150).fill('RCPT TO:<SRS0=guess=x@ours.example>'));
    const replies = (await session.rest()).trimEnd().split('\r\n');
    assert.equal(replies.length, 100);
    assert.match(replies.at(-1) ?? '', /^421 4\.7\.0 /);
    assert.equal(await session.status, 0);
    assert.equal(session.stderr(), 'smtpd-srs-io: warning: too many refused commands, closing\n');
    assert.equal(session.received(), '');
  });

  it('passes on to another server by smtp-relay-io', async (t) => {
    const server = await startFarServer(t, {});
    const command = [ours('smtp-relay-io'), '-l', 'relay.example', `smtp://localhost:${server.port}`];
    const session = startSrs(t, { command });
    assert.equal(await session.reply(), '220 relay.example ESMTP');
    const bounce = [
      'MAIL FROM:<>',
      `RCPT TO:<${srs0()}>`,
      'RCPT TO:<SRS0=x@ours.example>',
      'DATA',
      'Hi.',
      '.',
    ];
    session.send('EHLO client.example', ...bounce, 'MAIL FROM:<bob@other.example>', 'QUIT');
    session.end();
    const codes = (await session.rest()).match(/^\d{3}(?= )/gm);
    assert.deepEqual(codes, ['250', '250', '250', '550', '354', '250', '250', '221']);
    assert.equal(await session.status, 0);
    assert.match(
      server.connections[0]?.cleartext ?? '',
      /^EHLO client\.example\r\nMAIL FROM:<>\r\nRCPT TO:<bob@other\.example>\r\nDATA\r\nHi\.\r\n\.\r\nMAIL FROM:<SRS0=\S+=bob@ours\.example>\r\nQUIT\r\n$/,
    );
  });

  it('ends with smtpd, and with its status', async (t) => {
    const session = startSrs(t, { smtpd: ['--on=NOOP:line 250 bye;exit 7'] });
    await session.reply();
    assert.equal(await session.ask('NOOP'), '250 bye');
    assert.equal(await session.rest(), '');
    session.end();
    assert.equal(await session.status, 7);
  });

  it('ends with 421 when smtpd sends an invalid reply', async (t) => {
    const session = startSrs(t, { smtpd: ['--on=NOOP:line nonsense'] });
    await session.reply();
    assert.match(await session.ask('NOOP'), /^421 4\.3\.0 /);
    session.end();
    assert.equal(await session.status, 0);
    assert.equal(session.stderr(), 'smtpd-srs-io: warning: smtpd sent an invalid SMTP reply, closing\n');
  });

  it('ends when the client half-closes, or leaves', async (t) => {
    const halfClosing = startSrs(t, { smtpd: ['--end=line 421 end;exit 3'] });
    await halfClosing.reply();
    halfClosing.end();
    assert.equal(await halfClosing.rest(), '421 end\r\n');
    assert.equal(await halfClosing.status, 3);
    const leaving = startSrs(t, { smtpd: ['--on=DATA:line 354 go;await-end;exit 4'] });
    await leaving.reply();
    await leaving.ask('DATA');
    leaving.send('Hi.');
    leaving.child.stdout?.destroy();
    leaving.end();
    assert.equal(await leaving.status, 4);
  });

  it('ends with 421 at SIGTERM', async (t) => {
    const session = startSrs(t);
    await session.reply();
    session.child.kill('SIGTERM');
    assert.match(await session.reply(), /^421 4\.3\.2 /);
    session.end();
    assert.equal(await session.status, 143);
  });
});
