//! Draft passes that are run at once are the same run as one by one.

use std::sync::Arc;

use specrouter_routing::backend::{Backend, Cohort, Pass, PassOutcome, Row};
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId, Slot};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, Linear, LinearTerms, PassShape};
use specrouter_routing::record::{PassRecord, RequestRecord, RoundRecord, Sink, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use crate::backend::SimBackend;
use crate::cost::CostModel;
use crate::drive::{Bounds, open_loop};
use crate::golden::source;
use crate::simulator::Simulator;

/// Hides that passes may be run at once.
struct OneByOne<'a, P>(&'a P);

impl<P: Pass> Pass for OneByOne<'_, P> {
    fn model(&self) -> ModelId {
        self.0.model()
    }
    fn tick(&self) -> u64 {
        self.0.tick()
    }
    fn shape(&self) -> PassShape {
        self.0.shape()
    }
    fn cohorts(&self) -> &[Cohort] {
        self.0.cohorts()
    }
    fn draft_row(&self, cohort: &Cohort, index: usize) -> Row {
        self.0.draft_row(cohort, index)
    }
    fn rows(&self) -> &[Row] {
        self.0.rows()
    }
    fn run_length(&self) -> u8 {
        1
    }
}

struct Patient {
    inner: SimBackend,
    one_by_one: bool,
}

impl Backend for Patient {
    type Error = std::convert::Infallible;

    fn admit(&mut self, slot: Slot, request: &Request) {
        self.inner.admit(slot, request);
    }
    fn run<P: Pass>(&mut self, pass: &P, outcome: &mut PassOutcome) -> Result<(), Self::Error> {
        if self.one_by_one {
            return self.inner.run(&OneByOne(pass), outcome);
        }
        self.inner.run(pass, outcome)
    }
    fn truncate(&mut self, slot: Slot, model: ModelId, len: u32) {
        self.inner.truncate(slot, model, len);
    }
    fn free(&mut self, slot: Slot) {
        self.inner.free(slot);
    }
}

#[derive(Default, PartialEq, Debug)]
struct Log {
    passes: Vec<PassRecord>,
    rounds: Vec<RoundRecord>,
    requests: Vec<RequestRecord>,
}

impl Sink for Log {
    fn wants(&self) -> Wants {
        Wants { passes: true, rounds: true, ..Wants::default() }
    }
    fn request(&mut self, record: &RequestRecord) {
        self.requests.push(*record);
    }
    fn pass(&mut self, record: &PassRecord) {
        self.passes.push(*record);
    }
    fn round(&mut self, record: &RoundRecord) {
        self.rounds.push(*record);
    }
}

fn run(policy: &PolicyConfig, replicas: u32, gap: u64, one_by_one: bool) -> (Log, u64) {
    let luck = Luck::new(4);
    let names = ["0", "1", "2"].map(String::from);
    let pool = PolicyPool {
        names: &names,
        candidates: Candidates::all(3),
        classes: &["all".to_owned()],
        max_block: 32,
        draws: luck.stream(Stream::Policy),
    };
    let terms = |pass: f64, token: f64| LinearTerms::new(pass, 0.0, token, 1e-7, 0.0).unwrap();
    let costs = Linear::new(vec![terms(0.02, 1e-4), terms(0.15, 6e-4), terms(1.0, 4e-3)]);
    let limits = Limits {
        max_running: 6,
        token_budget: 256,
        max_block: 32,
        hold_passes: None,
        context: 1 << 20,
        by_priority: false,
    };
    let servers = (0..replicas).map(|id| {
        let belief = Corrected::new(Arc::new(Linear::constant(&[0.01, 0.1, 0.8]).unwrap()));
        let (id, built) = (ReplicaId(id), policy.build(&pool).unwrap());
        let replica = Replica::new(id, limits.clone(), &[4000; 3], 16, built, belief).unwrap();
        let inner = SimBackend::new(source(), Arc::new(CostModel::linear(costs.clone())), luck, id);
        (replica, Patient { inner, one_by_one })
    });
    let dispatcher = DispatcherConfig::LeastLoaded.build(luck.stream(Stream::Dispatch));
    let mut simulator = Simulator::new(servers.collect(), dispatcher);
    let draws = luck.stream(Stream::Test);
    let arrivals = (0..400u64).map(|id| Request {
        id: RequestId(id),
        class: ClassId(0),
        arrival: Time::from_nanos(id * gap + draws.bits(id, 0) % gap),
        prompt_tokens: 10 + (draws.bits(id, 1) % 400) as u32,
        limit: 5000,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(1 + (draws.bits(id, 2) % 150) as u32),
    });
    let mut log = Log::default();
    let mut watch = |_| true;
    open_loop(&mut simulator, arrivals, &mut Bounds { horizon: None, watch: &mut watch }, &mut log).unwrap();
    let scheduled = simulator.passes();
    // Ends at once come in another order between replicas; each replica's own order stands.
    log.passes.sort_by_key(|pass| (pass.replica, pass.tick));
    (log, scheduled)
}

#[test]
fn draft_passes_run_at_once_are_the_same_run() {
    let static_deep = PolicyConfig::Static(specrouter_routing::policies::StaticConfig {
        chain: ["0", "1", "2"].map(String::from).to_vec(),
        windows: vec![5, 4],
        stop: None,
    });
    // Long fills that arrivals cut, with ends in them.
    let static_long = PolicyConfig::Static(specrouter_routing::policies::StaticConfig {
        chain: ["1", "2"].map(String::from).to_vec(),
        windows: vec![16],
        stop: None,
    });
    for policy in [static_deep, static_long, PolicyConfig::by_name("specrouter").unwrap()] {
        for (replicas, gap) in [(1, 3_000_000_000), (3, 700_000_000), (2, 40_000_000), (1, 900_000_000)] {
            let ((fused, events), (single, passes)) =
                (run(&policy, replicas, gap, false), run(&policy, replicas, gap, true));
            assert!(events < passes, "{events} events for {passes} passes");
            assert_eq!(fused.requests, single.requests, "{}", policy.name());
            assert_eq!(fused.rounds.len(), single.rounds.len());
            let differ = fused.passes.iter().zip(&single.passes).find(|(a, b)| a != b);
            assert!(
                differ.is_none() && fused.passes.len() == single.passes.len(),
                "{}: {differ:?}",
                policy.name()
            );
        }
    }
}

/// Invariant 2: the clock never goes back, over all replicas, and passes that end at the same moment
/// end in the order in which they began.
#[test]
fn invariant_2_the_clock_never_goes_back_and_equal_times_keep_their_order() {
    #[derive(Default)]
    struct Ends(Vec<(Time, Time, ReplicaId)>);
    impl Sink for Ends {
        fn wants(&self) -> Wants {
            Wants { passes: true, ..Wants::default() }
        }
        fn request(&mut self, _: &RequestRecord) {}
        fn pass(&mut self, record: &PassRecord) {
            self.0.push((record.start + record.duration, record.start, record.replica));
        }
    }
    let luck = Luck::new(2);
    let names = ["0", "1", "2"].map(String::from);
    let pool = PolicyPool {
        names: &names,
        candidates: Candidates::all(3),
        classes: &["all".to_owned()],
        max_block: 32,
        draws: luck.stream(Stream::Policy),
    };
    let costs = Linear::constant(&[0.5, 0.5, 0.5]).unwrap(); // Every pass alike: ends meet all the time.
    let limits = Limits {
        max_running: 8,
        token_budget: 512,
        max_block: 32,
        hold_passes: None,
        context: 4096,
        by_priority: false,
    };
    let servers = (0..4).map(|id| {
        let id = ReplicaId(id);
        let policy = PolicyConfig::TargetOnly.build(&pool).unwrap();
        let belief = Corrected::new(Arc::new(costs.clone()));
        let replica = Replica::new(id, limits.clone(), &[4096; 3], 16, policy, belief).unwrap();
        (replica, SimBackend::new(source(), Arc::new(CostModel::linear(costs.clone())), luck, id))
    });
    let dispatcher = DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch));
    let mut simulator = Simulator::new(servers.collect(), dispatcher);
    let arrivals = (0..8u64).map(|id| Request {
        id: RequestId(id),
        class: ClassId(0),
        arrival: Time::ZERO,
        prompt_tokens: 8,
        limit: 30,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(30),
    });
    let mut ends = Ends::default();
    let mut watch = |_| true;
    open_loop(&mut simulator, arrivals, &mut Bounds { horizon: None, watch: &mut watch }, &mut ends).unwrap();
    assert!(ends.0.len() > 100);
    assert!(ends.0.is_sorted_by_key(|(end, _, _)| *end), "the clock never goes back");
    let equal = ends.0.windows(2).filter(|w| w[0].0 == w[1].0);
    assert!(equal.clone().count() > 80, "ends meet");
    assert!(equal.into_iter().all(|w| w[0].2 < w[1].2), "replicas began in order, so they end in order");
}
