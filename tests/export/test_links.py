from sparsevlm_trt.export.links import chain_links
from sparsevlm_trt.export.plan import plan_stages
from sparsevlm_trt.runtime.graph_spec import Link


def links_of(num_layers, boundaries, prunes=()):
    stages = plan_stages(num_layers, boundaries)
    rows = ["rater_rows"] if prunes else []
    names = ["embed", "raters", "head", *(stage.graph for stage in stages), *rows, *prunes]
    return chain_links(dict.fromkeys(names), stages)  # names are all it reads


def test_an_uncut_chain_has_one_link():
    assert links_of(4, ()) == (Link("embed.inputs_embeds", "stage_0.hidden_states"),)


def test_an_unpruned_chain_goes_straight_on():
    assert links_of(4, (0, 1)) == (
        Link("embed.inputs_embeds", "stage_0.hidden_states"),
        Link("stage_0.last_hidden_state", "stage_1.hidden_states"),
        Link("stage_1.last_hidden_state", "stage_2.hidden_states"),
    )


def test_a_boundary_goes_through_the_prune_graph_or_past_it():
    links = links_of(4, (1,), ["prune_sparsevlm"])
    assert set(links) == {
        Link("embed.inputs_embeds", "stage_0.hidden_states"),
        Link("stage_0.last_hidden_state", "stage_1.hidden_states"),
        Link("stage_0.last_hidden_state", "prune_sparsevlm.hidden_states"),
        Link("stage_0.queries", "rater_rows.queries"),
        Link("stage_0.keys", "rater_rows.keys"),
        Link("rater_rows.rater_attention", "prune_sparsevlm.rater_attention"),
        Link("prune_sparsevlm.next_hidden_states", "stage_1.hidden_states"),
        Link("prune_sparsevlm.next_position_ids", "stage_1.position_ids"),
    }


def test_every_boundary_and_every_method_is_linked():
    links = links_of(6, (1, 3), ["prune_a", "prune_b"])
    assert len(links) == len(set(links)) == 1 + 2 + 2 * (1 + 2 + 2 * 3)
