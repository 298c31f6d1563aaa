import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createSrs, isSrs, type Mailbox, type SrsSettings } from '../../../lib/srs/srs.ts';

/** 2020-01-01: the stamp is 2W. */
const DAY = 86_400_000;
const TIME = Date.UTC(2020, 0, 1, 0, 1);

function srsWith(settings: Partial<SrsSettings> = {}): ReturnType<typeof createSrs> {
  const keys: SrsSettings['keys'] = [Buffer.from('tops3cr3t')];
  return createSrs({ keys, hashLength: 4, hashMin: 4, maxAge: 21, separator: '=', ...settings });
}

function forward(
  address: string,
  { time = TIME, ...settings }: Partial<SrsSettings & { time: number }> = {},
): string | undefined {
  return srsWith(settings).forward(mailboxOf(address), time);
}

function reverse(
  local: string,
  { time = TIME, ...settings }: Partial<SrsSettings & { time: number }> = {},
): string {
  const result = srsWith(settings).reverse(local, time);
  return typeof result === 'string' ? result : `${result.local}@${result.domain}`;
}

function mailboxOf(address: string): Mailbox {
  const at = address.lastIndexOf('@');
  return { local: address.slice(0, at), domain: address.slice(at + 1) };
}

describe('an SRS0 address', () => {
  it('is that of the tests of postsrsd', () => {
    assert.equal(forward('test@otherdomain.com'), 'SRS0=vmyz=2W=otherdomain.com=test');
    assert.equal(reverse('SRS0=vmyz=2W=otherdomain.com=test'), 'test@otherdomain.com');
  });

  // Mail::SRS 0.31 has written the addresses in these tests.
  it('keeps the case of the address, and signs it in lower case', () => {
    const local = 'SRS0=Go7Y=2W=Host.TLD=User.Name+tag';
    assert.equal(forward('User.Name+tag@Host.TLD'), local);
    assert.equal(reverse(local), 'User.Name+tag@Host.TLD');
    assert.equal(reverse('SRS0=Go7Y=2W=host.tld=user.name+tag'), 'user.name+tag@host.tld');
  });

  it('has the separator of the settings, and is read with any', () => {
    for (const separator of ['=', '+', '-'] as const) {
      const local = `SRS0${separator}Go7Y=2W=Host.TLD=User.Name+tag`;
      assert.equal(forward('User.Name+tag@Host.TLD', { separator }), local);
      assert.equal(reverse(local), 'User.Name+tag@Host.TLD');
    }
  });

  it('has a signature of up to 27 characters', () => {
    const local = 'SRS0=7BNyiXvhv9/8DiqfcwhvF+vhe98=2W=b.example=a';
    assert.equal(forward('a@b.example', { hashLength: 27 }), local);
    assert.equal(reverse(local), 'a@b.example');
    assert.equal(reverse(local, { hashMin: 27 }), 'a@b.example');
  });

  it('may contain UTF-8, of which only ASCII is signed in lower case', () => {
    const sender = Buffer.from('ÄäX@b.example').toString('latin1');
    const local = Buffer.from('SRS0=YpZm4dzn3AwX9h4kZ78a7U5POAM=2W=b.example=ÄäX').toString('latin1');
    assert.equal(forward(sender, { hashLength: 27 }), local);
    assert.equal(reverse(local), sender);
  });

  it('is read in lower and in upper case', () => {
    for (const changed of ['srs0=vmyz=2w=otherdomain.com=test', 'SRS0=VMYZ=2W=OTHERDOMAIN.COM=TEST']) {
      assert.equal(reverse(changed).toLowerCase(), 'test@otherdomain.com');
    }
  });

  it('may contain "=" in the local part of the sender', () => {
    for (const sender of ['a=b=@c.example', '=@c.example', '==a@c.example', 'user%with!all&=@c.example']) {
      assert.equal(reverse(forward(sender) ?? ''), sender);
    }
  });

  it('is not possible for a domain with "="', () => {
    assert.equal(forward('a@[x:b=c]'), undefined);
  });

  it('is forged if any part was changed', () => {
    const local = forward('user@host.example') ?? '';
    for (let index = 5; index < local.length; index += 1) {
      const changed = `${local.slice(0, index)}${local[index] === 'x' ? 'y' : 'x'}${local.slice(index + 1)}`;
      assert.match(reverse(changed), /^(?:forged|malformed)$/);
    }
  });

  it('is forged if its signature is shorter than the minimum, or wrong behind the length that we write', () => {
    assert.equal(reverse('SRS0=vmy=2W=otherdomain.com=test'), 'forged');
    assert.equal(reverse('SRS0=vmy=2W=otherdomain.com=test', { hashMin: 3 }), 'test@otherdomain.com');
    assert.equal(reverse('SRS0=vmyz=2W=otherdomain.com=test', { hashLength: 5, hashMin: 5 }), 'forged');
    const long = forward('test@otherdomain.com', { hashLength: 8 }) ?? '';
    assert.equal(reverse(long), 'test@otherdomain.com');
    assert.equal(reverse(long.replace(/^(SRS0=.{7})./, '$1%')), 'forged');
    const whole = forward('test@otherdomain.com', { hashLength: 27 }) ?? '';
    assert.equal(reverse(whole.replace('=2W', 'A=2W')), 'forged');
  });

  it('is malformed if a part is missing', () => {
    for (const local of [
      'SRS0=',
      'SRS0=a',
      'SRS0=a=b',
      'SRS0=a=b=c',
      'SRS0=a=b==d',
      'SRS0=a=b=c=',
      'SRS0',
      '',
    ]) {
      assert.equal(reverse(local), 'malformed');
    }
    assert.equal(reverse('SRS0_vmyz=2W=otherdomain.com=test'), 'malformed');
  });

  it('is read with any of the keys, and written with the first', () => {
    const [old, next] = [Buffer.from('tops3cr3t'), Buffer.from('new')];
    assert.equal(forward('a@b.example', { keys: [next, old] }), forward('a@b.example', { keys: [next] }));
    assert.notEqual(forward('a@b.example', { keys: [next] }), forward('a@b.example'));
    assert.equal(reverse('SRS0=vmyz=2W=otherdomain.com=test', { keys: [next, old] }), 'test@otherdomain.com');
    assert.equal(reverse('SRS0=vmyz=2W=otherdomain.com=test', { keys: [next] }), 'forged');
  });
});

describe('the stamp of an SRS0 address', () => {
  const local = 'SRS0=vmyz=2W=otherdomain.com=test';

  it('is valid on the day, for the maximum age, and for the day before', () => {
    for (const days of [-1, 0, 1, 21]) {
      assert.equal(reverse(local, { time: TIME + days * DAY }), 'test@otherdomain.com', String(days));
    }
    for (const days of [-2, 22, 500, 1022]) {
      assert.equal(reverse(local, { time: TIME + days * DAY }), 'expired', String(days));
    }
    assert.equal(reverse(local, { time: TIME + DAY, maxAge: 0 }), 'expired');
  });

  it('wraps after 1024 days', () => {
    for (let day = 0; day < 1024; day += 1) {
      const time = TIME + day * DAY;
      assert.equal(reverse(forward('a@b.example', { time }) ?? '', { time: time + 21 * DAY }), 'a@b.example');
    }
    assert.equal(forward('a@b.example', { time: TIME + 1024 * DAY }), forward('a@b.example', { time: TIME }));
  });

  it('must be two digits of base32, even if it is signed', () => {
    // Mail::SRS has signed these stamps.
    for (const signed of ['SRS0=8/ZW=2W2W=b.example=a', 'SRS0=Te6T=18=b.example=a']) {
      assert.equal(reverse(signed), 'expired', signed);
    }
  });
});

describe('an SRS1 address', () => {
  const SRS0 = 'SRS0=Go7Y=2W=Host.TLD=User.Name+tag';

  it('has the domain and the address of the first forwarder, with its separator', () => {
    const written = {
      '=': 'SRS1=CTjm=fwd.example==Go7Y=2W=Host.TLD=User.Name+tag',
      '+': 'SRS1+QIpU=fwd.example=+Go7Y=2W=Host.TLD=User.Name+tag',
      '-': 'SRS1-lP0e=fwd.example=-Go7Y=2W=Host.TLD=User.Name+tag',
    } as const;
    for (const separator of ['=', '+', '-'] as const) {
      const inner = SRS0.replace('=', separator);
      assert.equal(forward(`${inner}@fwd.example`, { separator }), written[separator]);
      assert.equal(reverse(written[separator]), `${inner}@fwd.example`);
    }
  });

  it('keeps these at each other forwarder, who signs them with its own key', () => {
    const first = forward(`${SRS0}@fwd.example`) ?? '';
    const key = Buffer.from('another');
    const second = forward(`${first}@second.example`, { keys: [key] }) ?? '';
    assert.match(second, /^SRS1=.{4}=fwd\.example==Go7Y=2W=Host\.TLD=User\.Name\+tag$/);
    assert.notEqual(second, first);
    assert.equal(reverse(second, { keys: [key] }), `${SRS0}@fwd.example`);
    assert.equal(forward(`${second}@third.example`), first);
  });

  it('is read in lower case, at any time', () => {
    const local = 'srs1=ctjm=fwd.example==go7y=2w=host.tld=user.name+tag';
    assert.equal(
      reverse(local, { time: TIME + 400 * DAY }),
      `${SRS0.toLowerCase().replace('srs', 'SRS')}@fwd.example`,
    );
  });

  it('is forged if any part was changed, and malformed if one is missing', () => {
    assert.equal(reverse('SRS1=CTjn=fwd.example==Go7Y=2W=Host.TLD=User.Name+tag'), 'forged');
    assert.equal(reverse('SRS1=CTjm=fwd.example==Go7Y=2W=Host.TLD=User.Name+tax'), 'forged');
    assert.equal(reverse('SRS1=CTjm=fwd.example=+Go7Y=2W=Host.TLD=User.Name+tag'), 'forged');
    for (const local of ['SRS1=', 'SRS1=a', 'SRS1=a=b', 'SRS1=a==b=c', 'SRS1=a=b=c']) {
      assert.equal(reverse(local), 'malformed', local);
    }
  });

  it('without a signature, as old versions of SRS had it, is malformed', () => {
    assert.equal(reverse('SRS1=fwd.example==Go7Y=2W=Host.TLD=User.Name+tag'), 'malformed');
  });

  it('stands for whatever begins with SRS0', () => {
    for (const sender of ['SRS0=@fwd.example', 'SRS0-@fwd.example', 'SRS0=nonsense@fwd.example']) {
      assert.equal(reverse(forward(sender) ?? ''), sender);
    }
  });
});

describe('an address that only looks like SRS1', () => {
  it('is packed as any other', () => {
    for (const local of [
      'SRS1=',
      'SRS1=a=b',
      'SRS1=a=b=c',
      'SRS1=fwd.example==x=y=z=u',
      'SRS1_x',
      'SRS2=x',
    ]) {
      const packed = forward(`${local}@b.example`) ?? '';
      assert.match(packed, /^SRS0=/);
      assert.equal(reverse(packed), `${local}@b.example`);
    }
  });
});

describe('isSrs', () => {
  it('looks at the tag and its separator', () => {
    for (const local of ['SRS0=', 'srs1+x', 'Srs0-x=y']) assert.ok(isSrs(local), local);
    for (const local of ['SRS0', 'SRS2=x', 'SRS0_x', 'xSRS0=x']) assert.ok(!isSrs(local), local);
  });
});
