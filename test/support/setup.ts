/** Before every test file: property tests draw the same cases each time, so that a failure is one for everybody. */
import fc from 'fast-check';

fc.configureGlobal({ seed: 20210727 });
