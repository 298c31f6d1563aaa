import { numberOption, usage } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';

const NAME = 'ucspi-tlsd';

void runProgram({
  name: NAME,
  help: `Usage: ${NAME} [options] [--] prog...

Runs prog on the connection on descriptors 0 and 1 and does TLS for it when it
asks, by the rules of UCSPI-TLS. Reads CERTFILE and KEYFILE.

  -S            send close_notify at the end (the default)
  -s            half-close without close_notify at the end
  -J            an end of the client's side without close_notify is an error
  -j            it is not (the default)
  -Y            ask for a client certificate, which must be good if there is one
  -y            insist on a good client certificate
  -k LEVEL      server names (SNI): 0 KEYFILE and CERTFILE for all (the default),
                1 KEYFILE:name and CERTFILE:name too, 2 only those
  -K MILLISECONDS
                how long the handshake may take (30000); 0 for ever
  -Z            prog keeps the variables that are for TLS
  -z            it does not (the default)
  -v, --verbosity LEVEL
                0 fatal errors, 1 warnings too (the default), 2 TLS sessions too
      --alpn PROTOCOL
                refuse clients that offer protocols by ALPN, but not this one
      --version print the version
      --help    print this
`,
  options: {
    S: { type: 'boolean', short: 'S' },
    s: { type: 'boolean', short: 's' },
    J: { type: 'boolean', short: 'J' },
    j: { type: 'boolean', short: 'j' },
    Y: { type: 'boolean', short: 'Y' },
    y: { type: 'boolean', short: 'y' },
    Z: { type: 'boolean', short: 'Z' },
    z: { type: 'boolean', short: 'z' },
    k: { type: 'string', short: 'k' },
    K: { type: 'string', short: 'K' },
    verbosity: { type: 'string', short: 'v' },
    alpn: { type: 'string' },
  },
  run: async (values, command) => {
    if (command.length === 0) throw usage('no program named');
    for (const letter of ['S', 'J', 'Y', 'Z']) {
      const other = letter.toLowerCase();
      if (values[letter] && values[other]) throw usage(`-${letter} and -${other} contradict each other`);
    }
    // Here, so that --help and wrong usage do not wait for what only a session needs.
    const { runTlsd } = await import('../lib/chain/tlsd.ts');
    return runTlsd(
      {
        program: NAME,
        command,
        sendsCloseNotify: values.s === undefined,
        insistsOnCloseNotify: values.J !== undefined,
        clientCertificate: values.y ? 'required' : values.Y ? 'optional' : 'none',
        keepsVariables: values.Z !== undefined,
        sniLevel: numberOption(values, 'k', { least: 0, most: 2, standard: 0 }),
        timeout: numberOption(values, 'K', { least: 0, most: 2 ** 31 - 1, standard: 30_000 }),
        verbosity: numberOption(values, 'verbosity', { least: 0, most: 9, standard: 1 }),
        alpn: typeof values.alpn === 'string' ? values.alpn : undefined,
      },
      process.env,
    );
  },
});
